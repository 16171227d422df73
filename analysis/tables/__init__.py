"""Tables for people: settings compared, messages by kind, beside the published numbers."""
