"""What a clip shows: embeddings, near-duplicates, and the balance of concepts. This stage compares clips with one another."""
