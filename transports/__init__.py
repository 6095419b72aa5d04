"""How tasks get in and out: one TaskSource and one TaskDispatcher for each mode."""
