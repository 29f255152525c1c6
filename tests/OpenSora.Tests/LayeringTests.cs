using NetArchTest.Rules;
using OpenSora.Generation;

namespace OpenSora.Tests;

/// <summary>Tests that the folders of OpenSora.Lib depend on each other downwards only (docs/architecture.md).</summary>
public class LayeringTests
{
    private static readonly string[] Rooms =
    [
        "DependencyInjection",
        "Generation",
        "ModelFolders",
        "Models",
        "Diffusion",
        "Text",
        "Weights",
        "Media",
        "Distributed",
        "Runtime",
    ];

    [Theory]
    [InlineData("Runtime")]
    [InlineData("Distributed", "Runtime")]
    [InlineData("Diffusion", "Runtime")]
    [InlineData("Text", "Runtime")]
    [InlineData("Weights", "Runtime")]
    [InlineData("Media", "Runtime")]
    [InlineData("Models", "Text", "Weights", "Distributed", "Runtime")]
    [InlineData("ModelFolders", "Models", "Diffusion", "Text", "Weights", "Distributed", "Runtime")]
    [InlineData("Generation", "ModelFolders", "Models", "Diffusion", "Text", "Weights", "Media", "Distributed", "Runtime")]
    [InlineData("DependencyInjection", "Generation", "ModelFolders", "Models", "Diffusion", "Text", "Weights", "Media", "Distributed", "Runtime")]
    public void A_room_knows_only_those_below_it(string room, params string[] below)
    {
        var others = Rooms.Except([room, .. below]).Select(Namespace).ToArray();

        var result = Types
            .InAssembly(typeof(VideoGenerator).Assembly)
            .That()
            .ResideInNamespace(Namespace(room))
            .ShouldNot()
            .HaveDependencyOnAny(others)
            .GetResult();

        result.IsSuccessful.ShouldBeTrue(string.Join(", ", (result.FailingTypes ?? []).Select(type => $"{type.FullName}: {type.Explanation}")));
    }

    [Fact]
    public void Every_type_is_in_a_room()
    {
        var outside = typeof(VideoGenerator)
            .Assembly.GetTypes()
            .Where(type =>
                type.Namespace is { } name
                && name.StartsWith("OpenSora", StringComparison.Ordinal)
                && !Rooms.Any(room => $"{name}.".StartsWith($"{Namespace(room)}.", StringComparison.Ordinal))
            );

        outside.Select(type => type.FullName).ShouldBeEmpty();
    }

    [Fact]
    public void A_dependency_is_seen() =>
        Types
            .InAssembly(typeof(VideoGenerator).Assembly)
            .That()
            .ResideInNamespace(Namespace("Generation"))
            .ShouldNot()
            .HaveDependencyOnAny(Namespace("Media"))
            .GetResult()
            .IsSuccessful.ShouldBeFalse();

    private static string Namespace(string room) => $"OpenSora.{room}";
}
