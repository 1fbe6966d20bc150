"""A local stand-in for a Supabase project: REST, Auth, Storage and Realtime on one port."""
