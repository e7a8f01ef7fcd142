"""`--sync federated`: training on simulated devices, one a subject, which keep their data and send what they learned."""
