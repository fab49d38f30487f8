"""PostgreSQL: the pool, the statements that lie in `.sql` files, and the migrations. Knows no feature of ours."""
