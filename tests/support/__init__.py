"""What tests share: small modules, no test in them."""
