"""The catalogue of Wan models and their sizes; nano's weights and how they were trained."""
