"""The process with torch: it claims videos, makes them, and records what became of them."""
