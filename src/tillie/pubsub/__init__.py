"""Private pubsub, pure: what an item, a shared secret, a signature, a targeted item are, and what may be believed.

Every function is a step of one open transaction, or works on bytes alone. `tillie.nodes` joins them with a service.
"""
