"""What `doctor` looks at: each check is one function that answers with one Result."""
