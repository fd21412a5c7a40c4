"""Pictures of whole batches outside the terminal: the sheet (PNG, MP4) and the gallery (one HTML page)."""
