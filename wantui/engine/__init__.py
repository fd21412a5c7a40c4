"""The engine: the background process that starts, watches and stops workers."""
