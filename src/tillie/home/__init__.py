"""A home for keys: a federated Matrix server of device keys, one-time keys and sealed to-device messages, and of no
rooms. It holds no code that could read a message: the linter lets it import signatures, and no other cryptography."""
