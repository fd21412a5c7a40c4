"""Views of the Analysis screen: their data, and how they are drawn."""
