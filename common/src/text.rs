//! Texts that came from elsewhere, made fit for a terminal, a log and a page.

/// The first characters of a text, without control characters: in a terminal those could hide or forge other lines.
pub fn printable(text: &str, characters_max: usize) -> String {
    // Characters that change the direction of what follows are no control characters to Unicode, and act as such.
    let is_direction = |character| matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|character| !character.is_control() && !is_direction(*character)).take(characters_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_surplus_go() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{9b}c\u{202e}d é", 20), "a[2Jbcd é");
        assert_eq!(printable("ééééé", 3), "ééé");
    }
}
