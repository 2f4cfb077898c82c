"""slixmpp plugins, one file for each XEP, and the network seam of the engine on top of slixmpp.

Every `xep_NNNN` here can be registered alone, for example
`client.register_plugin("xep_0384", {"store": path, "key": key}, module="tillie.networks.xmpp.xep_0384")`.
"""
