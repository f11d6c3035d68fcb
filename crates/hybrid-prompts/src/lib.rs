//! Examples to text: templates, label words and the search over them.
