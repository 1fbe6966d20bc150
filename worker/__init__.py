"""The daemon that turns rows of video_jobs into videos."""

__version__ = "0.1.0"
