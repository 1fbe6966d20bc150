"""The ComfyUI graph: reading it, checking it, and the request made from it. Pure."""
