"""The mechanism of settings: declaration, loading, validation, durations."""
