"""Kills and cuts the parts at random while jobs run; nothing may be lost or doubled."""
