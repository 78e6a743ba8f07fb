"""Keys in hardware: what speaks to a TPM or a PKCS#11 module, apart from everything else that holds secrets."""
