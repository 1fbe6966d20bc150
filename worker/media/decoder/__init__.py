"""The process that decodes media: it is given open files, and can reach nothing else."""
