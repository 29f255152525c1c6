using OpenSora.Generation;

namespace OpenSora.Tests;

/// <summary>How many public types each namespace has. A new one needs a reason; then the number here grows with it.</summary>
public class PublicTypesTests
{
    [Theory]
    [InlineData("OpenSora.Models", 32)]
    [InlineData("OpenSora.Models.Layers", 8)]
    [InlineData("OpenSora.Weights", 6)]
    [InlineData("OpenSora.Text", 4)]
    public void Public_types_are_few(string name, int count)
    {
        var types = typeof(VideoGenerator)
            .Assembly.GetExportedTypes()
            .Where(type => string.Equals(type.Namespace, name, StringComparison.Ordinal))
            .Select(type => type.Name)
            .Order(StringComparer.Ordinal)
            .ToList();
        types.Count.ShouldBe(count, string.Join(", ", types));
    }

    [Fact]
    public void The_command_line_tool_uses_public_types_only() =>
        typeof(VideoGenerator)
            .Assembly.GetCustomAttributes(typeof(System.Runtime.CompilerServices.InternalsVisibleToAttribute), inherit: false)
            .Cast<System.Runtime.CompilerServices.InternalsVisibleToAttribute>()
            .Select(attribute => attribute.AssemblyName)
            .ShouldNotContain("OpenSora.Cli");
}
