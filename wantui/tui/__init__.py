"""The terminal application: screens and widgets over queue, folders and GPUs. The only place with Textual."""
