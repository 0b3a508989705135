"""NSX: segments of the Policy API, on premises and in VMware Cloud on AWS. Written from public text, and never tried
with a real one (``facts/network-cutover.md``, 7)."""
