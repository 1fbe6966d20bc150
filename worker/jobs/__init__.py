"""The life of a job: what is known, what happens, what follows. Pure: no IO, no clock."""
