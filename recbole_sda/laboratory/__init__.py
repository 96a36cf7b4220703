"""The planted truth of the built-in catalogue, and how much of it embeddings show."""
