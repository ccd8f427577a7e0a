"""The window: REST service, jobs, one dashboard page and the command line. It shows and starts; it owns no science."""
