"""One file per feature; api.app lists their routers."""
