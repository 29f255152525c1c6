using OpenSora.Preparation.Captions;

namespace OpenSora.Preparation.Tests.Captions;

public class CaptionAnswerTests
{
    [Theory]
    [InlineData("A dog runs on a beach.", "A dog runs on a beach.")]
    [InlineData("The video shows a dog that runs.", "A dog that runs.")]
    [InlineData("This video clip depicts a dog that runs.", "A dog that runs.")]
    [InlineData("The video captures a dog. The video ends with a jump.", "A dog. The video ends with a jump.")]
    [InlineData("The three frames show a dog that runs.", "A dog that runs.")]
    [InlineData("The sequence of images depicts a dog that runs.", "A dog that runs.")]
    [InlineData("The image is of a small dog.", "A small dog.")]
    [InlineData("The scene appears to show a small dog.", "A small dog.")]
    [InlineData("The video shows that a dog is running.", "A dog is running.")]
    [InlineData("The video shows how a dog swims.", "The video shows how a dog swims.")]
    [InlineData("In this image, we can see a small dog.", "A small dog.")]
    [InlineData("In this image we can see a small dog.", "A small dog.")]
    [InlineData("In the video, a dog runs. In the second frame, it jumps.", "A dog runs. It jumps.")]
    [InlineData("Throughout the video, a dog runs.", "A dog runs.")]
    [InlineData("A video of a small dog.", "A small dog.")]
    [InlineData("A series of three frames showing a small dog.", "A small dog.")]
    [InlineData("A photo of a small dog.", "A photo of a small dog.")]
    [InlineData("一只狗在沙滩上奔跑。", "一只狗在沙滩上奔跑。")]
    [InlineData("I can see a small dog.", "A small dog.")]
    [InlineData("Sure! Here's a description of the video: A dog runs.", "A dog runs.")]
    [InlineData("Sure, here is a caption:\n\n\"A dog runs on a beach.\"", "A dog runs on a beach.")]
    [InlineData("Caption: The video shows a dog that runs.", "A dog that runs.")]
    [InlineData("**Description:** A dog *runs* on a `beach`.", "A dog runs on a beach.")]
    [InlineData("### Video description\n\nA dog runs. It is **brown**.", "A dog runs. It is brown.")]
    [InlineData("- a dog runs\n- the beach is sunny;\n- Waves break.", "A dog runs. The beach is sunny. Waves break.")]
    [InlineData("1. A dog runs\n2) It jumps", "A dog runs. It jumps.")]
    [InlineData("\"A dog runs on a beach.\"", "A dog runs on a beach.")]
    [InlineData("“A dog runs on a beach.”", "A dog runs on a beach.")]
    [InlineData("\"Stop\" is written on a sign \"Go\"", "\"Stop\" is written on a sign \"Go\"")]
    [InlineData("A dog runs.\n\n\n  It   jumps.\t", "A dog runs. It jumps.")]
    [InlineData("A dog runs. A dog runs. A dog runs. It jumps. A dog runs.", "A dog runs. It jumps.")]
    [InlineData("A dog runs. Let me know if you need more details!", "A dog runs.")]
    [InlineData("A dog runs. I hope this helps. Is there anything else?", "A dog runs.")]
    [InlineData("<think>Three frames, a dog.</think>A dog runs.", "A dog runs.")]
    [InlineData("ASSISTANT: A dog runs.</s>", "A dog runs.")]
    [InlineData("A dog runs.<|im_end|>", "A dog runs.")]
    [InlineData("```json\n{\"caption\": \"A dog runs on a beach.\"}\n```", "A dog runs on a beach.")]
    [InlineData("{\"caption\": \"A dog runs on a beach.\", \"tags\": [\"dog\"]}", "A dog runs on a beach.")]
    [InlineData("A [dog](https://example.com/dog) runs.", "A dog runs.")]
    [InlineData("A man says \"I'm sorry\" and leaves.", "A man says \"I'm sorry\" and leaves.")]
    [InlineData("A snake_case_name is written on 3 * 4 * 5 tiles.", "A snake_case_name is written on 3 * 4 * 5 tiles.")]
    [InlineData("In the picture book, a fox sleeps.", "In the picture book, a fox sleeps.")]
    [InlineData("一只狗 在沙滩上 奔跑。", "一只狗 在沙滩上 奔跑。")]
    public void Only_the_description_remains(string answer, string caption) => Clean(answer).Text.ShouldBe(caption);

    [Theory]
    [InlineData("I'm sorry, I can't help with that.")]
    [InlineData("I’m sorry, but I can't view videos.")]
    [InlineData("Sorry, I cannot see the image.")]
    [InlineData("I can't assist with this request.")]
    [InlineData("I cannot describe this video.")]
    [InlineData("I am unable to see the frames.")]
    [InlineData("As an AI language model, I do not see images.")]
    [InlineData("Unfortunately, I cannot help.")]
    [InlineData("I apologize, but there are no frames here.")]
    [InlineData("It seems that no image was attached.")]
    [InlineData("No image was provided.")]
    [InlineData("Please provide the video that I should describe.")]
    [InlineData("Could you please share the frames?")]
    [InlineData("Sure! I'm sorry, I can't do this.")]
    [InlineData("**I'm sorry**, I can't do this.")]
    public void A_refusal_is_recognized(string answer) =>
        Clean(answer).ShouldSatisfyAllConditions(each => each.Reason.ShouldBe("refused"), each => each.Detail.ShouldNotBeNullOrEmpty());

    [Theory]
    [InlineData("", "empty answer")]
    [InlineData("\"\"", "empty answer")]
    [InlineData("***", "empty answer")]
    [InlineData("<think>A dog, perhaps", "empty answer")]
    [InlineData("Here is the caption:", "empty answer")]
    [InlineData("A dog.", "too short")]
    [InlineData("<html><body>Bad gateway for this request</body></html>", "not text")]
    [InlineData("{\"wrong\": [1, 2, 3]}", "not text")]
    [InlineData("A dog \uFFFD\uFFFD runs on a beach", "not text")]
    [InlineData("0.12 0.57 0.33 0.91", "not text")]
    public void An_answer_that_is_not_a_caption_has_a_reason(string answer, string reason) => Clean(answer).Reason.ShouldBe(reason);

    [Theory]
    [InlineData("A dog runs fast. It jumps over", "length", "A dog runs fast.")]
    [InlineData("A dog runs fast. It jumps over", null, "A dog runs fast.")]
    [InlineData("A dog runs fast. It jumps over", "stop", "A dog runs fast. It jumps over")]
    [InlineData("A dog runs on the", "length", "A dog runs on the")]
    public void A_half_sentence_at_the_end_is_removed(string answer, string? end, string caption) => Clean(answer, end).Text.ShouldBe(caption);

    [Theory]
    [InlineData("One two three. Four five six seven. Eight nine ten.", 8, "One two three. Four five six seven.")]
    [InlineData("One two three four, five six seven eight nine ten.", 6, "One two three four.")]
    [InlineData("One two three four five six seven eight nine ten.", 6, "One two three four five six.")]
    [InlineData("One. Two three four five six seven eight nine ten.", 6, "One. Two three four five six.")]
    public void A_long_answer_is_shortened(string answer, int words, string caption)
    {
        var result = CaptionAnswer.Clean(new ChatAnswer(answer, "stop", null, null), 3, words);
        (result.Text, result.IsShortened).ShouldBe((caption, true));
        CaptionAnswer.Clean(new ChatAnswer(answer, "stop", null, null), 3, 10).IsShortened.ShouldBeFalse();
    }

    [Fact]
    public void Huge_answers_are_cleaned_quickly()
    {
        foreach (var part in new[] { "* ", "**a", "\"", "[a](", "the the ", "- ", "in the the ", "A dog runs. ", "<", "#", "`", "sure, ", "_a" })
        {
            var answer = string.Concat(Enumerable.Repeat(part, 100_000 / part.Length));
            var start = System.Diagnostics.Stopwatch.GetTimestamp();
            var result = Clean(answer);
            (result.HasCaption || result.Reason is not null).ShouldBeTrue();
            System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalSeconds.ShouldBeLessThan(5, part);
        }
    }

    private static CaptionResult Clean(string answer, string? end = "stop") => CaptionAnswer.Clean(new ChatAnswer(answer, end, null, null), 3, 90);
}
