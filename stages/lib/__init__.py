"""What several stages compute with."""
