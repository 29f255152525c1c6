using OpenSora.Generation;
using OpenSora.ModelFolders;

namespace OpenSora.Tests.Generation;

public class PromptVocabularyTests
{
    private static readonly PromptVocabulary Small = new(["goat", "car | automobile", "slice of pizza", "red apple", "T-Rex | dinosaur", "cherry"]);

    [Theory]
    [InlineData("a goat")]
    [InlineData("A GOAT, jumping!")]
    [InlineData("two goats")]
    [InlineData("cherries")]
    [InlineData("an automobile on a blue background")]
    [InlineData("a flat slice of pizza spinning")]
    [InlineData("t-rex")]
    [InlineData("")]
    [InlineData("  ")]
    public void Prompts_that_name_something_known_have_no_warning(string prompt) => Small.Check(prompt).ShouldBeNull();

    [Theory]
    [InlineData("a gaot", "'goat'")]
    [InlineData("an appel", "'red apple'")]
    [InlineData("pizza", "'slice of pizza'")]
    [InlineData("a dinosour", "'T-Rex'")]
    [InlineData("an autmobile", "'car'")]
    [InlineData("an apple", "'red apple'")]
    public void The_nearest_names_are_suggested(string prompt, string name) => Small.Check(prompt).ShouldNotBeNull().ShouldContain(name);

    [Fact]
    public void Without_a_near_name_the_warning_suggests_none() =>
        Small.Check("quantum chromodynamics").ShouldBe("The prompt names nothing that this model knows, so the video is arbitrary.");

    [Fact]
    public void The_bundled_model_lists_what_it_knows()
    {
        var folder = ModelFolder.Open("stickers");
        File.ReadLines(Path.Combine(folder.Path, folder.Description.Vocabulary!)).Count().ShouldBe(547);
        folder.CheckPrompt("a 3D rocket on a blue background").ShouldBeNull();
        folder.CheckPrompt("a heart zooming in").ShouldBeNull();
        folder.CheckPrompt("a giraf").ShouldNotBeNull().ShouldContain("'giraffe'");
    }

    [Fact]
    public async Task A_video_of_an_unknown_thing_has_the_warning()
    {
        using var model = new TinyModel(d => d with { Vocabulary = "things.txt" }, files: [("things.txt", "goat\n")]);
        using var generator = model.Generator();
        (await generator.Request("a goat").GenerateAsync()).Warnings.ShouldBeEmpty();
        (await generator.Request("a gaot").GenerateAsync()).Warnings.ShouldHaveSingleItem().ShouldContain("'goat'");
    }
}
