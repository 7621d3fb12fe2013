"""The backends for a GPU, and what they share: a call's tensors with clients, and the products around the recurrence."""
