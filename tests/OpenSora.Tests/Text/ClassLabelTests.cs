using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Text;

public class ClassLabelTests
{
    private static readonly string[] Birds = ["crane", "drake, mallard", "crane, lifting machine"];

    [Theory]
    [InlineData("class 2", 2)]
    [InlineData("Class 0", 0)]
    [InlineData(" 1 ", 1)]
    [InlineData("Mallard", 1)]
    [InlineData("drake, mallard", 1)]
    [InlineData("crane", 0)]
    [InlineData("lifting machine", 2)]
    [InlineData("", 3)]
    [InlineData("  ", 3)]
    public void Numbers_and_names_are_classes(string prompt, int number)
    {
        using var encoder = new ClassLabelEncoder(Birds);
        encoder.NumberOf(prompt).ShouldBe(number);
    }

    [Theory]
    [InlineData("class 3", "There is no class 'class 3'")]
    [InlineData("-1", "a number from 0 to 2")]
    [InlineData("a goat", "or a name such as 'crane'")]
    [InlineData("cran", "or a name: crane; crane, lifting machine.")]
    [InlineData("class", "rather than text")]
    [InlineData("99999999999999", "There is no class")]
    public void Anything_else_is_rejected(string prompt, string message)
    {
        using var encoder = new ClassLabelEncoder(Birds);
        Should.Throw<ArgumentException>(() => encoder.Encode([prompt])).Message.ShouldContain(message);
    }

    [Fact]
    public void A_state_is_a_number()
    {
        var before = TensorCount.Now;
        using (var encoder = new ClassLabelEncoder(1000))
        {
            using var states = encoder.Encode(["class 207", "", "5"]);
            (encoder.Width, encoder.MaxTokens).ShouldBe((1, 1));
            states.States.shape.ShouldBe([3, 1, 1]);
            states.States.data<float>().ToArray().ShouldBe([207f, 1000f, 5f]);
            states.Mask.shape.ShouldBe([3, 1]);
            states.Mask.dtype.ShouldBe(ScalarType.Bool);
            Should.Throw<ArgumentException>(() => encoder.Encode([]));
            Should.Throw<ArgumentException>(() => encoder.NumberOf("goldfish")).Message.ShouldEndWith("such as 'class 0'. (Parameter 'prompt')");
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Names_must_fit_the_count()
    {
        Should
            .Throw<ArgumentException>(() => ClassLabelEncoder.Architecture.Load(new ClassLabels { Count = 4, Names = Birds }, null))
            .Message.ShouldContain("there are 3 names for 4 classes");
        Should.Throw<ArgumentException>(() => new ClassLabelEncoder(0)).Message.ShouldContain("Count is 0");
        Should.Throw<ArgumentException>(() => new ClassLabelEncoder([])).Message.ShouldContain("Count is 0");
    }

    [Fact]
    public void The_configuration_is_written_and_read()
    {
        using var encoder = new ClassLabelEncoder(Birds);
        var written = encoder.WriteConfig();
        written.GetProperty("count").GetInt32().ShouldBe(3);
        using var read = ClassLabelEncoder.Architecture.Load(ClassLabelEncoder.Architecture.ReadConfig(written), null);
        read.ShouldBeOfType<ClassLabelEncoder>().NumberOf("mallard").ShouldBe(1);
    }
}
