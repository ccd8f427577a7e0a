"""Steps from one version of the service's database to the next."""
