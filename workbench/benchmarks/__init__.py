"""How fast and how good: figures that anybody can measure again."""
