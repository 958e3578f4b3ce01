"""Tells people of tasks that fail, and that they succeed again: what happens, gathered, sent as jobs of the app."""
