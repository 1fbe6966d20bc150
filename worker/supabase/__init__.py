"""Supabase over REST and Realtime: the table, its changes, and Storage."""
