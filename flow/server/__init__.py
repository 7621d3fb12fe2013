from flow.server.options import ServerOptions

__all__ = ["ServerOptions"]
