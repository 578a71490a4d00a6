"""The encoder: preprocessing, training, checkpoints, embedding, and the store of vectors."""
