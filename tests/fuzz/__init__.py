"""Structural mutation of media files, fed to header readers and to confined decoders."""
