"""One screen for each number key, and the dialogs; each with its style sheet beside it."""
