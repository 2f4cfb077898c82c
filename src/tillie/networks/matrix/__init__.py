"""Matrix: one account on a homeserver, over the client-server API 1.19 with aiohttp. To-device messages only: a room
client needs more than this."""
