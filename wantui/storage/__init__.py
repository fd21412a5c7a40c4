"""What wantui leaves on disk: folder layout, manifest, capture arrays, clips with provenance. No torch here."""
