// What a reader may see of a text while it is being generated.

#include "check.h"
#include "text/text_stream.h"

using kvf::TextStream;

static void test_half_a_character_waits() {
    TextStream text({});
    CHECK(text.push("a\xE2\x82") == "a");
    CHECK(text.push("\xAC") == "\xE2\x82\xAC");
    CHECK(text.push("\xF0\x9F\x98") == "");
    CHECK(text.push("\x80!") == "\xF0\x9F\x98\x80!");
    CHECK(text.flush() == "");
}

static void test_bytes_that_are_no_character_are_replaced() {
    TextStream text({});
    CHECK(text.push("\x80z") == "\xEF\xBF\xBDz");
    CHECK(text.push("\xE2\x82") == "");
    CHECK(text.flush() == "\xEF\xBF\xBD\xEF\xBF\xBD");
    CHECK(text.push("\xED\xA0\x80") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"); // a surrogate
}

static void test_stop_string_over_several_pieces_is_never_shown() {
    TextStream text({ "END" });
    CHECK(text.push("one E") == "one ");
    CHECK(text.push("N") == "");
    CHECK(text.push("Dtwo") == "");
    CHECK(text.stopped());
    CHECK(text.push("three") == "");
    CHECK(text.flush() == "");
}

static void test_what_might_have_been_a_stop_string_is_shown_in_the_end() {
    TextStream text({ "END", "\n\n" });
    CHECK(text.push("EN") == "");
    CHECK(text.push("V") == "ENV");
    CHECK(text.push("x\n") == "x");
    CHECK(text.flush() == "\n");
    CHECK(!text.stopped());
}

static void test_the_first_of_several_stop_strings_counts() {
    TextStream text({ "b", "abc" });
    CHECK(text.push("xabc") == "x"); // "abc" starts before "b"
    CHECK(text.stopped());
}

// a stop string of bytes that begin inside of a character: nothing is shown of what may become one
static void test_a_stop_string_inside_of_a_character_splits_none() {
    TextStream two({ "\xBF!" });
    CHECK(two.push("\xDF") == "");
    CHECK(two.push("\xBF") == "");
    CHECK(two.push("x") == "\xDF\xBFx");
    TextStream four({ "\x98\x80z" });
    CHECK(four.push("a\xF0\x9F\x98") == "a");
    CHECK(four.push("\x80") == "");
    CHECK(four.push("y") == "\xF0\x9F\x98\x80y");
    CHECK(!two.stopped() && !four.stopped());
}

int main() {
    test_a_stop_string_inside_of_a_character_splits_none();
    test_half_a_character_waits();
    test_bytes_that_are_no_character_are_replaced();
    test_stop_string_over_several_pieces_is_never_shown();
    test_what_might_have_been_a_stop_string_is_shown_in_the_end();
    test_the_first_of_several_stop_strings_counts();
    return 0;
}
