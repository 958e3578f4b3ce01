"""Views of posts: counted once a reader, and written once for all that came within five minutes."""
