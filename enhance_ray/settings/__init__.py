"""What the package can be told: options of a recording, and how settings are read and written."""
