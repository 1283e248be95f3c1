"""The text side: item metadata -> line of text -> vectors in a store. Never imports RecBole."""
