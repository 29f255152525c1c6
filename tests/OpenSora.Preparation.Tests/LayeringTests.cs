using NetArchTest.Rules;

namespace OpenSora.Preparation.Tests;

/// <summary>Tests that the folders of OpenSora.Lib.Preparation depend on each other as docs/architecture.md says.</summary>
public class LayeringTests
{
    private static readonly string[] s_rooms = ["Pipeline", "PublicSets", "Manifests", "Captions", "Scores", "Cutting", "Shots", "Media"];

    [Theory]
    [InlineData("Media")]
    [InlineData("Shots", "Media")]
    [InlineData("Cutting", "Media")]
    [InlineData("Scores", "Media")]
    [InlineData("Captions", "Media")]
    [InlineData("Manifests", "Media")]
    [InlineData("PublicSets", "Media")]
    public void A_room_knows_only_those_below_it(string room, params string[] below)
    {
        var others = s_rooms.Except([room, .. below]).Select(Namespace).ToArray();

        var result = Types
            .InAssembly(typeof(VideoPreparation).Assembly)
            .That()
            .ResideInNamespace(Namespace(room))
            .ShouldNot()
            .HaveDependencyOnAny(others)
            .GetResult();

        result.IsSuccessful.ShouldBeTrue(string.Join(", ", (result.FailingTypes ?? []).Select(type => $"{type.FullName}: {type.Explanation}")));
    }

    [Fact]
    public void The_library_does_not_need_TorchSharp() =>
        typeof(VideoPreparation)
            .Assembly.GetReferencedAssemblies()
            .Select(assembly => assembly.Name)
            .ShouldNotContain(name => name == "TorchSharp" || name == "OpenSora");

    private static string Namespace(string room) => $"OpenSora.Preparation.{room}";
}
