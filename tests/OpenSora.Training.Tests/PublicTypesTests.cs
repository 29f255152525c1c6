using System.Reflection;
using OpenSora.Training.Stages;

namespace OpenSora.Training.Tests;

public class PublicTypesTests
{
    [Fact]
    public void Public_types_are_few()
    {
        var types = typeof(StagedTrainer).Assembly.GetExportedTypes();
        types.Length.ShouldBeLessThanOrEqualTo(
            32,
            "A new public type needs a reason: can it be internal, or a member of one of these? " + string.Join(", ", types.Select(type => type.Name))
        );
    }

    [Fact]
    public void Only_tests_see_internals_of_the_library()
    {
        Assembly[] libraries = [typeof(StagedTrainer).Assembly, typeof(OpenSora.Models.StdiT).Assembly];
        libraries
            .SelectMany(assembly => assembly.GetCustomAttributes<System.Runtime.CompilerServices.InternalsVisibleToAttribute>())
            .Select(friend => friend.AssemblyName)
            .ShouldNotContain("OpenSora.Training");
    }
}
