"""NSX: segments of the Policy API, on premises and in VMware Cloud on AWS. Written from public sources, and never tried
with a real one (``docs/nsx.md``)."""
