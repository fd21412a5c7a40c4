"""Files that wantui writes: folder layout, manifest, capture arrays, clips with provenance. No torch here."""
