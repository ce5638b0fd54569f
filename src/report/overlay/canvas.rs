//! A small RGB canvas: pixels, letters and the PNG they become.

/// An 8-bit RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels along a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row from the top left.
    pub pixels: Vec<u8>,
}

/// Columns and rows of a letter before magnification.
const GLYPH: [usize; 2] = [5, 7];

/// How many pixels one dot of a letter is wide and high.
const DOT: usize = 2;

/// Height in pixels of a line of text.
pub(super) const TEXT_HEIGHT: usize = GLYPH[1] * DOT;

/// Width in pixels of a text.
pub(super) fn text_width(text: &str) -> usize {
    (text.chars().count() * (GLYPH[0] + 1)).saturating_sub(1) * DOT
}

impl RgbImage {
    /// A black image.
    pub(super) fn black(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; 3 * width * height] }
    }

    /// Mixes `colour` into the pixel at (x, y): all of it at opacity 1, nothing at 0. Outside is ignored.
    pub(super) fn blend(&mut self, [x, y]: [usize; 2], colour: [u8; 3], opacity: f32) {
        if x >= self.width || y >= self.height {
            return;
        }
        let start = 3 * (y * self.width + x);
        for (channel, new) in self.pixels[start..start + 3].iter_mut().zip(colour) {
            *channel = (f32::from(*channel) * (1.0 - opacity) + f32::from(new) * opacity).round() as u8;
        }
    }

    /// Writes white text with a black shadow; (x, y) is its top left corner.
    pub(super) fn write(&mut self, [x, y]: [usize; 2], text: &str) {
        for (shift, colour) in [(1, [0; 3]), (0, [255; 3])] {
            for (position, letter) in text.chars().enumerate() {
                let left = x + shift + position * (GLYPH[0] + 1) * DOT;
                self.draw_letter([left, y + shift], letter, colour);
            }
        }
    }

    fn draw_letter(&mut self, [x, y]: [usize; 2], letter: char, colour: [u8; 3]) {
        let rows = glyph(letter);
        for (row, column) in (0..TEXT_HEIGHT).flat_map(|r| (0..GLYPH[0] * DOT).map(move |c| (r, c))) {
            if rows[row / DOT] >> (GLYPH[0] - 1 - column / DOT) & 1 == 1 {
                self.blend([x + column, y + row], colour, 1.0);
            }
        }
    }

    /// The image as the bytes of a PNG file.
    ///
    /// # Errors
    /// Whatever the encoder refuses, such as an image without pixels.
    pub fn encode_png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let side = |pixels: usize| u32::try_from(pixels).map_err(|_| png::EncodingError::LimitsExceeded);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// Rows of a letter from the top, the leftmost dot in bit 4; blank for letters that the figure does not use.
#[rustfmt::skip]
fn glyph(letter: char) -> [u8; 7] {
    match letter {
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        '3' => [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        '.' => [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100],
        'a' => [0b00000, 0b00000, 0b01110, 0b00001, 0b01111, 0b10001, 0b01111],
        'm' => [0b00000, 0b00000, 0b11010, 0b10101, 0b10101, 0b10101, 0b10101],
        'x' => [0b00000, 0b00000, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001],
        'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'I' => [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        'S' => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_decodes_to_the_pixels() {
        let mut image = RgbImage::black(40, 20);
        image.write([2, 2], "max");
        image.blend([39, 19], [10, 200, 30], 0.5);
        let bytes = image.encode_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (40, 20, png::ColorType::Rgb));
        assert_eq!(pixels, image.pixels);
        assert_eq!(pixels[pixels.len() - 3..], [5, 100, 15]);
    }

    #[test]
    fn an_image_without_pixels_is_refused() {
        assert!(RgbImage::black(0, 3).encode_png().is_err());
    }

    #[test]
    fn letters_stand_upright_and_are_not_mirrored() {
        let mut image = RgbImage::black(10, 14);
        image.write([0, 0], "L");
        let lit = |x: usize, y: usize| image.pixels[3 * (y * 10 + x)] == 255;
        assert!(lit(0, 0) && lit(0, 13) && lit(9, 13));
        assert!(!lit(9, 0));
    }
}
