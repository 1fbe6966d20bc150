"""From sound, picture and options to frames, size, time and cost. Pure."""
